"""Filters of continuous recordings."""


def band_pass(raw, l_freq=0.2, h_freq=42.0, picks=None, **filter_kwargs):
    """Band-pass filter a recording in place.

    The default band is the one that Anandakumar et al. (2022, section 3.2) apply
    to scalp and ear channels. The paper states neither type nor order of its
    filter; this one is MNE's default, a zero-phase windowed FIR filter.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording. It is loaded into memory and changed in place.
    l_freq, h_freq : float or None, default=0.2 and 42.0
        Edges of the pass band in hertz; None leaves that side open.
    picks : str or list, optional
        Channels to filter, as in :meth:`mne.io.Raw.filter`. By default its data
        channels: EEG, but no channel typed EOG, EMG or ECG.
    **filter_kwargs
        Further arguments of :meth:`mne.io.Raw.filter`.

    Returns
    -------
    mne.io.Raw
        The same object.

    Raises
    ------
    ValueError
        If ``h_freq`` is not below half the sampling rate.

    Examples
    --------
    As a step of braindecode's preprocessing:

    >>> from braindecode.preprocessing import Preprocessor
    >>> from skleepkd.preprocessing import band_pass
    >>> step = Preprocessor(band_pass, apply_on_array=False, h_freq=35.0)
    """
    return raw.load_data().filter(l_freq, h_freq, picks=picks, **filter_kwargs)
