"""What can cover the land: eight crops with PASTIS's ids, and a dozen things that PASTIS calls background.

Days are counted from 1 January of the harvest year (autumn before it is negative). A `Phase` is a cover that rises
around `start`, falls around `end`, each over about 4 times its `ramp`, and reaches `height` (share of the ground).
Phases of one kind add up. The courses follow crop calendars of northern and eastern France.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Phase(NamedTuple):
    start: float
    start_ramp: float
    end: float
    end_ramp: float
    height: float


@dataclass(frozen=True)
class Kind:
    """One land cover: its plants' course through the year and the materials it is made of."""

    name: str
    canopy: str = "grass"  # material of the green cover
    ground: str = "soil"  # "soil", or the material that lies under the plants
    green: tuple[Phase, ...] = ()
    dry: tuple[Phase, ...] = ()  # ripe and dead plants, stubble
    petals: tuple[Phase, ...] = ()  # share of the green cover hidden under flowers
    crop: int = 0  # PASTIS's id, 0 = background
    share: float = 0.0  # of the crop land, or of the parcels without a declared crop
    annual: bool = False  # sown and harvested each year: other plants before and after
    cut: bool = False  # mown up to three times a year
    free: bool = False  # sown at any time from March to July (gardens, undeclared crops)


ALWAYS = (-1000.0, 10.0, 2000.0, 10.0)

# fmt: off
KINDS = (
    Kind("meadow", "grass", crop=1, share=0.19, cut=True,
         green=(Phase(*ALWAYS, 0.64), Phase(72, 13, 300, 16, 0.28)),
         dry=(Phase(188, 10, 262, 12, 0.08),)),
    Kind("soft winter wheat", "cereal", crop=2, share=0.18, annual=True,
         green=(Phase(-42, 10, 176, 6, 0.30), Phase(76, 10, 178, 6, 0.64)),
         dry=(Phase(178, 6, 236, 9, 0.72),)),
    Kind("corn", "tall", crop=3, share=0.15, annual=True,
         green=(Phase(160, 8, 258, 9, 0.90),),
         dry=(Phase(254, 9, 290, 7, 0.50),)),
    Kind("winter barley", "cereal", crop=4, share=0.12, annual=True,
         green=(Phase(-58, 10, 158, 6, 0.36), Phase(68, 10, 160, 6, 0.58)),
         dry=(Phase(160, 6, 214, 9, 0.72),)),
    Kind("winter rapeseed", "broad", crop=5, share=0.12, annual=True,
         green=(Phase(-100, 9, 168, 6, 0.44), Phase(-92, 10, -20, 12, 0.25), Phase(62, 10, 170, 6, 0.48)),
         dry=(Phase(170, 6, 212, 8, 0.65),),
         petals=(Phase(98, 4, 130, 5, 0.55),)),
    Kind("sunflower", "tall", crop=7, share=0.08, annual=True,
         green=(Phase(157, 8, 232, 8, 0.86),),
         dry=(Phase(232, 8, 266, 7, 0.42),),
         petals=(Phase(188, 4, 208, 5, 0.22),)),
    Kind("beet", "broad", crop=9, share=0.08, annual=True,
         green=(Phase(149, 8, 292, 9, 0.90),)),
    Kind("potatoes", "broad", crop=13, share=0.08, annual=True,
         green=(Phase(144, 7, 226, 8, 0.87),),
         dry=(Phase(226, 7, 252, 7, 0.35),)),
    Kind("fallow", "grass", share=0.44,
         green=(Phase(*ALWAYS, 0.58), Phase(90, 13, 176, 12, 0.30)),
         dry=(Phase(172, 11, 268, 12, 0.34),)),
    Kind("orchard", "leaves", share=0.18,
         green=(Phase(*ALWAYS, 0.42), Phase(100, 9, 300, 12, 0.38)),
         dry=(Phase(182, 11, 262, 12, 0.10),)),
    Kind("garden", "broad", share=0.14, free=True, annual=True, green=(Phase(0, 9, 75, 10, 0.72),)),
    Kind("copse", "leaves", ground="branches", share=0.18,
         green=(Phase(*ALWAYS, 0.25), Phase(106, 7, 298, 11, 0.66))),
    Kind("quarry", ground="gravel", share=0.06, green=(Phase(*ALWAYS, 0.08),)),
    Kind("broadleaf wood", "leaves", ground="branches",
         green=(Phase(*ALWAYS, 0.18), Phase(106, 7, 298, 11, 0.76))),
    Kind("conifer wood", "needles", ground="branches", green=(Phase(*ALWAYS, 0.92),)),
    Kind("hedge", "leaves", ground="branches", green=(Phase(*ALWAYS, 0.40), Phase(104, 8, 300, 11, 0.46))),
    Kind("verge", "grass",
         green=(Phase(*ALWAYS, 0.58), Phase(84, 13, 188, 14, 0.27)),
         dry=(Phase(182, 12, 264, 12, 0.24),)),
    Kind("lawn", "grass", green=(Phase(*ALWAYS, 0.66),), dry=(Phase(186, 12, 258, 12, 0.20),)),
    Kind("road", ground="asphalt", green=(Phase(*ALWAYS, 0.10),)),
    Kind("roofs", ground="tiles", green=(Phase(*ALWAYS, 0.06),)),
    Kind("halls", ground="metal"),
    Kind("water", ground="water"),
)
# fmt: on
NAMES = {kind.name: number for number, kind in enumerate(KINDS)}
CROPS = tuple(number for number, kind in enumerate(KINDS) if kind.crop)
OTHERS = tuple(number for number, kind in enumerate(KINDS) if kind.share and not kind.crop)
