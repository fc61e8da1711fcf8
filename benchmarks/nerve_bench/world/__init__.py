"""A small world with exact label maps: rendered things that people know on kinds of ground, still or moving.

Things have several colours and parts, so that neither bare colour nor one CLIP patch names them.
"""

from nerve_bench.world.clips import MovingFrame as MovingFrame
from nerve_bench.world.clips import moving_scene as moving_scene
from nerve_bench.world.scenes import CLASS_NAMES as CLASS_NAMES
from nerve_bench.world.scenes import SEEDS as SEEDS
from nerve_bench.world.scenes import Scene as Scene
from nerve_bench.world.scenes import make_scene as make_scene
from nerve_bench.world.textures import STUFF as STUFF
from nerve_bench.world.things import THINGS as THINGS
from nerve_bench.world.things import words_of as words_of
