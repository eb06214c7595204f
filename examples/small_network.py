"""LogPowerNet by its former name, until nothing imports it from here."""

from skleepkd.networks import LogPowerNet as SmallNetwork  # noqa: F401
