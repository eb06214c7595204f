"""The estimators of published experiments, ready configured."""

from skleepkd.recipes._anandakumar2022 import anandakumar2022
from skleepkd.recipes._joshi2021 import joshi2021
from skleepkd.recipes._phan2019 import phan2019

__all__ = ["anandakumar2022", "joshi2021", "phan2019"]
