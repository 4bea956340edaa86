import subprocess
import sys

import pytest

from builder.errors import UsageError
from builder.families.anomaly.channels import CHANNEL_NAMES, CHANNELS, find_channel


def test_there_are_27_channels_with_their_subsystems():
    assert len(CHANNELS) == len(set(CHANNEL_NAMES)) == 27
    sizes = {}
    for channel in CHANNELS:
        sizes[channel.subsystem] = sizes.get(channel.subsystem, 0) + 1
    assert sizes == {"EPS": 5, "ACS": 5, "FSW": 3, "TCS": 3, "Data": 5, "SS": 1, "PS": 5}
    assert find_channel("P-7").subsystem == "PS"
    assert find_channel("P-7").model == "SMAP_P-7"


@pytest.mark.parametrize("name", ["E-1", "e-1", " E-1 ", "SMAP_E-1", "smap_e-1"])
def test_a_channel_is_found_however_it_is_written(name):
    assert find_channel(name).name == "E-1"


@pytest.mark.parametrize("name", ["", "E-6", "P-5", "../E-1", "SMAP_"])
def test_an_unknown_channel_is_named_with_those_that_exist(name):
    with pytest.raises(UsageError, match="P-7") as caught:
        find_channel(name)
    assert repr(name) in str(caught.value)


def test_the_channels_and_the_commands_import_without_heavy_packages():
    code = (
        "import sys; import builder.families.anomaly.channels, builder.families.anomaly.commands;"
        "print([m for m in ('torch', 'numpy', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
