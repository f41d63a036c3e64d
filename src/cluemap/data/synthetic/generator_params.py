"""What makes the demo easier or harder: lengths in pixels of 10 m, times in days, reflectance in 0..1."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LandKnobs:
    """How the land is cut up and what lies on it."""

    parcel_area: float = 300.0  # median of a parcel before roads and woods take their part; PASTIS: 47 to 155
    parcel_spread: float = 0.55  # standard deviation of the logarithm of that area
    strips: float = 0.3  # share of the blocks that are cut into long parallel strips
    declared: float = 0.82  # share of the parcels that carry a crop; the others are background
    woods: float = 0.13  # share of the land under woods
    villages: float = 1.1  # mean number on 128 x 128 pixels
    river: float = 0.4  # probability of a river
    bend: float = 1.6  # how far a straight boundary wanders
    crop_length: float = 26.0  # distance over which neighbours tend to grow the same crop
    crop_cluster: float = 4.0  # strength of that tendency; 0 = every parcel chooses alone
    crop_share_spread: float = 0.30  # standard deviation of the logarithm of a crop's share, patch to patch


@dataclass(frozen=True)
class GrowthParams:
    """How much parcels of one crop differ from each other."""

    region_shift: float = 4.0  # standard deviation of a tile's earliness
    parcel_shift: float = 4.5  # of a parcel's sowing and green-up
    ripening_shift: float = 3.0  # of its senescence, on top
    vigour: float = 0.12  # of the logarithm of its green cover
    within: float = 0.08  # of the green cover within a parcel
    canopy: float = 0.05  # of the logarithm of its canopy's reflectance, band groups apart
    soil: float = 0.14  # of the logarithm of its soil's brightness
    catch_crop: float = 0.35  # share of parcels that are green between two main crops
    cuts: float = 0.65  # probability of each of a meadow's three cuts


@dataclass(frozen=True)
class SkyParams:
    """What lies between the land and the sensor, and the sensor itself."""

    overcast: float = 0.1  # share of the dates mostly under cloud
    broken: float = 0.14  # share of the dates with some cloud
    haze: float = 0.008  # mean haze of a date, as reflectance added in the blue
    correction: float = 0.012  # standard deviation of the atmospheric correction's error, in the blue
    light: float = 0.06  # of a date's brightness
    noise: float = 0.004  # of a pixel, plus 1.5 % of its value
    missing: float = 0.012  # share of the dates with no data at all
    cut_off: float = 0.008  # share of the dates with no data beyond a swath's edge
    blur: float = 0.55  # standard deviation of the point spread, in the band's own pixels


@dataclass(frozen=True)
class Difficulty:
    land: LandKnobs = field(default_factory=LandKnobs)
    growth: GrowthParams = field(default_factory=GrowthParams)
    sky: SkyParams = field(default_factory=SkyParams)


STANDARD = Difficulty()
