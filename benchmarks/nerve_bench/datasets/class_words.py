"""What the benchmarks' classes are called, in the order of their label files; names are facts, synonyms are our choice.

Each string is a class: its name, then words that a caption would use for it. No word stands for two classes of one
benchmark. Where a label file says "wall-brick" or "food-other", the name here is what a person would say.
"""


def _classes(text: str) -> tuple[str, ...]:
    """Split "a; b, c" over any number of lines into one string a class."""
    return tuple(" ".join(part.split()) for part in text.split(";"))


VOC = _classes("""
aeroplane, airplane, aircraft; bicycle, bike; bird; boat, ship; bottle; bus; car; cat; chair; cow;
dining table, table; dog; horse; motorbike, motorcycle; person, man, woman, child, people; potted plant, plant in a pot;
sheep; sofa, couch; train; tv monitor, television, computer screen
""")
"""PASCAL VOC 2012, 20 classes; label 0 of its files is the background."""

VOC_SCENERY = (
    *("sky", "cloud", "wall", "building", "house", "window", "ceiling", "floor", "carpet", "road", "street"),
    *("pavement", "grass", "field", "tree", "bush", "leaves", "mountain", "rock", "sand", "ground", "water"),
    *("river", "sea", "snow"),
)
"""What is seen in photographs and is no class of VOC (ours, in the style of the field)."""

CONTEXT = _classes("""
aeroplane, airplane; bag, handbag; bed; bedclothes, blanket; bench; bicycle, bike; bird; boat, ship; book; bottle;
building, house; bus; cabinet, cupboard; car; cat; ceiling; chair; cloth, clothes; computer, laptop; cow; cup, mug;
curtain; dog; door; fence; floor; flower; food; grass; ground, soil; horse; keyboard; light, lamp;
motorbike, motorcycle; mountain, hill; computer mouse; person, people; plate, dish; platform; potted plant; road, street;
rock, stone; sheep; shelves, shelf; sidewalk, pavement; sign, signboard; sky; snow; sofa, couch; table; track, railway;
train; tree; truck; tv monitor, television; wall; water; window; wood
""")
"""PASCAL Context, the 59 most frequent classes in alphabetical order; label 0 is the background."""

LITERAL_BACKGROUND = ("background",)
"""Context names nearly all scenery as classes: only the literal word is left for the rest."""

COCO_THINGS = _classes("""
person, people; bicycle, bike; car; motorcycle, motorbike; airplane, aeroplane; bus; train; truck; boat, ship;
traffic light; fire hydrant; stop sign; parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra;
giraffe; backpack; umbrella; handbag; tie, necktie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat;
baseball glove; skateboard; surfboard; tennis racket; bottle; wine glass; cup, mug; fork; knife; spoon; bowl; banana;
apple; sandwich; orange; broccoli; carrot; hot dog; pizza; donut, doughnut; cake; chair; couch, sofa; potted plant; bed;
dining table; toilet; tv, television; laptop; computer mouse; remote control; keyboard; cell phone, mobile phone;
microwave; oven; toaster; sink; refrigerator, fridge; book; clock; vase; scissors; teddy bear; hair drier, hair dryer;
toothbrush
""")
"""COCO, the 80 things, train ids 0 to 79."""

COCO_SCENERY = (
    *("sky", "cloud", "wall", "building", "house", "window", "ceiling", "floor", "carpet", "road", "street"),
    *("pavement", "grass", "field", "tree", "bush", "leaves", "mountain", "rock", "sand", "ground", "water"),
    *("river", "sea", "snow"),
)
"""What is seen in photographs and is no thing of COCO (ours, in the style of the field)."""

COCO_STUFF = _classes("""
banner; blanket; branch; bridge; building; bush; cabinet; cage; cardboard; carpet; ceiling; tiled ceiling; cloth;
clothes; clouds; counter; cupboard; curtain; desk; dirt; door; fence; marble floor; floor; stone floor; tiled floor;
wooden floor; flower; fog; food; fruit; furniture; grass; gravel; ground; hill; house; leaves; light, lamp; mat; metal;
mirror; moss; mountain; mud; napkin; net; paper; pavement, sidewalk; pillow; plant; plastic; platform; playing field;
railing; railroad, railway; river; road; rock; roof; rug; salad; sand; sea, ocean; shelf; sky; skyscraper; snow;
solid object; stairs; stone; straw; structure; table; tent; textile; towel; tree; vegetable; brick wall; concrete wall;
wall; wall panel; stone wall; tiled wall; wooden wall; water; water drops; window blind; window; wood
""")
"""COCO-Stuff, the 91 kinds of stuff, train ids 80 to 170."""

CITYSCAPES = _classes("""
road; sidewalk, pavement; building; wall; fence; pole; traffic light; traffic sign; vegetation, tree; terrain, grass;
sky; person, pedestrian; rider, cyclist; car; truck; bus; train, tram; motorcycle, motorbike; bicycle, bike
""")
"""Cityscapes, the 19 classes that are evaluated, train ids 0 to 18."""

ADE20K = _classes("""
wall; building; sky; floor; tree; ceiling; road; bed; window, windowpane; grass; cabinet; sidewalk, pavement;
person, people; earth, ground; door; table; mountain; plant; curtain; chair; car; water; painting, picture; sofa, couch;
shelf; house; sea, ocean; mirror; rug, carpet; field; armchair; seat; fence; desk; rock, stone; wardrobe, closet; lamp;
bathtub; railing; cushion; base, pedestal; box; column, pillar; signboard, sign; chest of drawers; counter; sand; sink;
skyscraper; fireplace; refrigerator, fridge; grandstand; path; stairs; runway; showcase, display case;
pool table, billiard table; pillow; screen door; stairway, staircase; river; bridge; bookcase; window blind, blind;
coffee table; toilet; flower; book; hill; bench; countertop; stove; palm tree, palm; kitchen island; computer;
swivel chair; boat; bar; arcade machine; hovel, hut; bus; towel; light; truck; tower; chandelier; awning; streetlight;
booth; television, tv; airplane; dirt track; apparel, clothes; pole; land; bannister, handrail; escalator; ottoman;
bottle; buffet, sideboard; poster; stage; van; ship; fountain; conveyer belt; canopy; washing machine, washer;
toy, plaything; swimming pool; stool; barrel; basket; waterfall; tent; bag; minibike, motorbike; cradle; oven; ball;
food; step; tank; trade name, brand name; microwave; pot; animal; bicycle; lake; dishwasher; projection screen; blanket;
sculpture; exhaust hood, hood; sconce; vase; traffic light; tray; trash can, ashcan; fan; pier; crt screen; plate;
monitor; bulletin board; shower; radiator; drinking glass, glass; clock; flag
""")
"""ADE20K as in the scene parsing challenge of 2016, 150 classes, labels 1 to 150 of its files."""
