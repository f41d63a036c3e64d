"""Dates of one season or of several: the model sees the day of the year alone."""

from datetime import date, timedelta

from cluemap.data.scenes.scene_file import NAME

YEAR = 365  # days
CLOSE = 20  # days


def of_years(dates: tuple[date, ...]) -> list[str]:
    """What to say of dates over more than twelve months, whose days of the year collide."""
    if not dates or (dates[-1] - dates[0]).days <= YEAR:
        return []
    first = dates[0]
    second = [day for day in dates if day > first + timedelta(days=YEAR)]
    collide = [
        day for day in second
        if any(_apart(day, other) <= CLOSE for other in dates if abs((day - other).days) > YEAR - 2 * CLOSE)
    ]  # fmt: skip
    return [
        f"the {len(dates)} dates run over more than a year, from {first} to {dates[-1]}, but the model sees only the "
        f"day of the year: {len(collide)} of them fall within {CLOSE} days of a date of another year and count as the "
        f"same season ({dates[-1]} is day {dates[-1].timetuple().tm_yday}). To take one season alone, set "
        f"images.season_start in {NAME} to its first day, e.g. {_start(dates)}"
    ]


def _apart(one: date, other: date) -> int:
    apart = abs(one.timetuple().tm_yday - other.timetuple().tm_yday)
    return min(apart, YEAR - apart)


def _start(dates: tuple[date, ...]) -> date:
    """The first day of the twelve months with the most dates."""
    return max(dates, key=lambda day: sum(day <= other < day + timedelta(days=YEAR) for other in dates))
