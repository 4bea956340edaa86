"""The 27 SMAP telemetry channels that are served, and the subsystem each belongs to.

Free of torch and NumPy: importing it costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from builder.errors import UsageError

FEATURES = 25
"""Columns of every telemetry array: the telemetry value and 24 one-hot command features."""

TELEMETRY_COLUMN = 0
"""The column that holds the telemetry value."""

SUBSYSTEMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "EPS": ("E-1", "E-2", "E-3", "E-4", "E-5"),
        "ACS": ("A-1", "A-2", "A-3", "A-4", "A-5"),
        "FSW": ("F-1", "F-2", "F-3"),
        "TCS": ("T-1", "T-2", "T-3"),
        "Data": ("D-1", "D-2", "D-3", "D-4", "D-5"),
        "SS": ("S-1",),
        "PS": ("P-1", "P-2", "P-3", "P-4", "P-7"),
    }
)
"""Channel names by subsystem, in the order in which people list them."""


@dataclass(frozen=True, slots=True, order=True)
class Channel:
    """One telemetry channel of the spacecraft.

    Attributes:
        name: The channel's name in the telemanom set, e.g. `E-1`.
        subsystem: Abbreviation of the subsystem that it belongs to, e.g. `EPS`.
        spacecraft: Always `SMAP` here.
    """

    name: str
    subsystem: str
    spacecraft: str = "SMAP"

    @property
    def model(self) -> str:
        """Name of the served model, e.g. `SMAP_E-1`."""
        return f"{self.spacecraft}_{self.name}"


CHANNELS: tuple[Channel, ...] = tuple(
    Channel(name, subsystem) for subsystem, names in SUBSYSTEMS.items() for name in names
)
"""All channels, by subsystem."""

CHANNEL_NAMES: tuple[str, ...] = tuple(channel.name for channel in CHANNELS)

_BY_NAME: Mapping[str, Channel] = MappingProxyType({c.name: c for c in CHANNELS})


def find_channel(name: str) -> Channel:
    """The channel of that name; `E-1`, `e-1` and `SMAP_E-1` all find E-1.

    Raises:
        UsageError: There is no such channel.
    """
    key = name.strip().upper().removeprefix("SMAP_")
    if key in _BY_NAME:
        return _BY_NAME[key]
    raise UsageError(
        f"unknown channel {name!r}", hint=f"the channels are {', '.join(CHANNEL_NAMES)}"
    )
