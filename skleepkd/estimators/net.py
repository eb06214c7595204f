"""skorch's classifier with a device that may be "auto", and pickles that travel."""

from contextlib import contextmanager

import torch
from skorch import NeuralNetClassifier


class Net(NeuralNetClassifier):
    """What every stager needs of skorch and skorch does otherwise."""

    def check_data(self, X, y=None):
        """Do nothing: ``fit`` has checked."""

    def train(self, X, y):
        """Loop over the passes.

        As skorch's ``partial_fit``, but an interrupt ends the program: skorch goes on
        with the half-trained network, and cross-validation would score it.
        """
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y)
        self.notify("on_train_end", X=X, y=y)
        return self

    @property
    def device(self):
        """The device in use; ``get_params`` gives it as it was set ("auto")."""
        device = self.__dict__["device"]
        if isinstance(device, str) and device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return device

    @device.setter
    def device(self, device):
        self.__dict__["device"] = device

    def get_params(self, deep=True, **kwargs):
        """Return the parameters as they were set."""
        params = super().get_params(deep=deep, **kwargs)
        return {**params, "device": self.__dict__["device"]}

    def __setattr__(self, name, value):
        if not name.endswith("_") and "__" not in name:
            # A parameter that is a torch module (a loss) is stored as it is; skorch
            # keeps books of fitted components alone.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getstate__(self):
        if torch.device(self.device).type == "cuda":
            return super().__getstate__()
        # skorch pickles networks apart, by the plain pickle, which cannot send a class
        # of a notebook to a worker; off the GPU there is no need to.
        return self.__dict__.copy()

    def __setstate__(self, state):
        wanted = state["device"]
        self.__dict__["device"] = wanted
        if "__cuda_dependent_attributes__" in state:
            super().__setstate__({**state, "device": self.device})
        else:
            self.__dict__.update(state)
        self.__dict__["device"] = wanted
        for name in self._modules + self._criteria:
            getattr(self, f"{name}_").to(self.device)


@contextmanager
def seeded(seed, device):
    """Seed torch inside the block and leave its state as it was."""
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=None if cuda else []):
        torch.manual_seed(seed)
        yield
