"""A small world with exact label maps: textured things on kinds of stuff, still or moving.

What makes a class is its texture and colour, visible inside one CLIP patch; outlines are arbitrary.
"""

from nerve_bench.world.clips import MovingFrame as MovingFrame
from nerve_bench.world.clips import moving_scene as moving_scene
from nerve_bench.world.scenes import SEEDS as SEEDS
from nerve_bench.world.scenes import Scene as Scene
from nerve_bench.world.scenes import make_scene as make_scene
from nerve_bench.world.textures import CLASS_NAMES as CLASS_NAMES
from nerve_bench.world.textures import STUFF as STUFF
from nerve_bench.world.textures import THINGS as THINGS
