"""Class names that people often ask for; their order decides how far apart their colours are."""


def _names(text: str) -> tuple[str, ...]:
    """Split "a, b, c" over any number of lines; a name counts where it stands first."""
    return tuple(dict.fromkeys(" ".join(name.split()) for name in text.split(",")))


# `colours` gives each name the colour that is farthest from those of all names before it. So the names that are shown
# most often stand first, and a new name belongs at the end: anywhere else it would change the colours after it. Within
# the first forty, names stand where a colour that suits them comes up: water blue, sand amber, banana yellow.
KNOWN_NAMES = _names("""
grass, zebra, snow, strawberry, sand, road, penguin, water, soccer ball, pizza, car, sky, dog, tree, umbrella, bus, frog,
elephant, flamingo, butterfly, airplane, tractor, banana, ladybug, watermelon, apple, horse, lion, parrot, sailboat,
broccoli, cactus, tiger, turtle, pig, grapes, house, train, camera, carrot, tulip, doughnut, octopus, rocket, truck,
crab, guitar, laptop, bicycle, palm tree, corn, helicopter, fish, balloon, owl, pineapple, orange, bee, teapot, gift,
mushroom, sunflower, taxi, cheese, cow, hamburger, lemon, cat, panda, cookie,

person, motorcycle, boat, traffic light, fire hydrant, stop sign, parking meter, bench, bird, sheep, bear, giraffe,
backpack, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, sandwich, hot dog, donut, cake, chair,
couch, potted plant, bed, dining table, toilet, tv, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush,

aeroplane, motorbike, sofa, tv monitor,

building, wall, floor, ceiling, window, door, sidewalk, fence, pole, traffic sign, vegetation, terrain, rider, earth,
mountain, plant, curtain, table, cabinet, painting, shelf, sea, mirror, rug, field, rock, lamp, box, stairs, river,
bridge, pillow, flower, hill, path, sign, cloud, lake, van, computer, bag, street, ground, bush, man, woman, child,
computer mouse, remote control, television, ship, plate, towel, blanket, light, tower, tent, flag, ball, food, pumpkin
""")
