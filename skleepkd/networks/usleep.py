"""U-Sleep: braindecode's network, with what it does not declare itself."""

import warnings

import torch.nn.functional as F

with warnings.catch_warnings():
    # braindecode asks MNE for a montage under its old name.
    warnings.filterwarnings("ignore", message=".*standard_1020.*")
    from braindecode import models


class USleep(models.USleep):
    """U-Sleep [1]_ as braindecode builds it, with the paper's kernel at every rate.

    ``braindecode.models.USleep`` itself, given to a stager as a class, has kernels of
    ``9 / 128`` seconds: seven samples at 100 Hz, and an error at 200 Hz, where they would
    be even. By name, "USleep" is this one and "braindecode.USleep" that one.

    Parameters
    ----------
    sfreq : float
        Sampling rate in hertz.
    time_conv_size_s : float, optional
        Length of the kernels in seconds, an odd number of samples; 9 samples by default.
    **options
        The other parameters of ``braindecode.models.USleep``, ``n_chans``, ``n_times``
        and ``n_outputs`` among them.

    Attributes
    ----------
    feature_layers : tuple of str
        The decoder's last map, shape ``(batch, 6, n_times)``, which the code of [2]_ compares.
    parameter_groups : dict of str to tuple of str
        As of :class:`UTime`.

    References
    ----------
    .. [1] Perslev, M., Darkner, S., Kempfner, L., Nikolic, M., Jennum, P. J. and Igel, C.
       (2021). U-Sleep: resilient high-frequency sleep staging.
    .. [2] Anandakumar, M., Pradeepkumar, J., Kappel, S. L., Edussooriya, C. U. S. and
       De Silva, A. C. (2022). A knowledge distillation framework for enhancing
       ear-EEG based sleep staging with scalp-EEG data.
    """

    parameter_groups = {  # noqa: RUF012
        "encoder": ("encoder_blocks",),
        "bottom": ("bottom",),
        "decoder": ("decoder_blocks",),
        "head": ("clf", "final_layer"),
    }

    def __init__(self, *, sfreq, time_conv_size_s=None, **options):
        seconds = 9 / sfreq if time_conv_size_s is None else time_conv_size_s
        super().__init__(sfreq=sfreq, time_conv_size_s=seconds, **options)

    @property
    def feature_layers(self):
        """Name the last block of the decoder."""
        return (f"decoder_blocks.{len(self.decoder_blocks) - 1}",)

    def segment(self, x, step):
        """Compute logits for every ``step`` samples, as :meth:`UTime.segment`.

        Because of the nonlinearity behind the mean over a step, the logits do not average
        to those of a longer step, as U-Time's do.
        """

        def mean_over_steps(_, scores, __):
            return F.avg_pool1d(*scores, step)  # (batch, filters, times // step)

        # The last layer of clf is the mean over an epoch; its output is replaced.
        with self.clf[-1].register_forward_hook(mean_over_steps):
            logits = self(x)
        # braindecode drops the time axis of a single step.
        return logits[..., None] if logits.ndim == 2 else logits


# braindecode appends a section on a hub, with references to its own documentation.
USleep.__doc__ = USleep.__doc__.partition("\n\n    .. rubric:: Hugging Face")[0]
