"""What the loaders still filter with; users call ``raw.filter``."""


def band_pass(raw, l_freq=0.2, h_freq=42.0, picks=None, **filter_kwargs):
    """Load a recording and filter it in place."""
    return raw.load_data().filter(l_freq, h_freq, picks=picks, **filter_kwargs)
