"""SAM: steps use the gradient at a nearby point of higher loss, to find flat minima."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from grawa.errors import UserError


class SAM(Optimizer):
    """Sharpness-aware minimisation with another optimizer as its base.

        g1   = gradient at x
        eps  = rho g1 / ||g1||            L2 norm over all parameters
        g2   = gradient at x + eps
        x   <- x, moved by the base optimizer with g2

    State and parameter groups are those of the base optimizer, so schedulers, `GradScaler` and
    checkpoints work with either. With `rho=0` this is the base optimizer. There are two ways to
    make a step. The first is in parts, which allows gradient accumulation, mixed precision and
    shared gradients:

        scaler.scale(loss_fn(model(inputs), targets)).backward()
        with optimizer.perturbed():
            optimizer.zero_grad()
            scaler.scale(loss_fn(model(inputs), targets)).backward()
        scaler.step(optimizer)            # or optimizer.step()
        scaler.update()

    eps does not depend on the loss scale, so the first gradients need not be unscaled. The
    parameters are back at x after the block, so a step that the scaler skips changes nothing. The
    second way is `optimizer.step(closure)` with a closure that clears gradients, computes the loss
    and calls backward; it is called twice. In the second pass BatchNorm uses its batch's statistics
    but does not update its running statistics, so these are updated once a step, at x.

    With an `Averager` this is one local step, and gradient norms are those of g2. If workers share
    gradients (data parallel), the step in parts is DP-SAM: each worker perturbs its parameters with
    the gradient of its own batch, without communication, and the mean of the workers' g2 is used
    for the step.

    Args:
        model: the model whose parameters the optimizer holds; its BatchNorm layers don't update
            their running statistics in the second pass.
        base: the base optimizer.
        rho: distance of the second gradient's point.

    Raises:
        UserError: if rho is negative or not finite.

    >>> model = nn.Linear(1, 1, bias=False); _ = nn.init.ones_(model.weight)
    >>> sam = SAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    >>> model.weight.square().sum().backward()
    >>> with sam.perturbed(): sam.zero_grad(); model.weight.square().sum().backward()
    >>> sam.step(); model.weight.item()  # 1 - 0.1 * 2 * (1 + 0.5)
    0.699999988079071

    Source: Foret et al. (2021), "Sharpness-Aware Minimization for Efficiently Improving
    Generalization", algorithm 1 and equation 2 with p = 2; section 4.1 for a perturbation by each
    accelerator's own batch (m-sharpness).
    """

    def __init__(self, model: nn.Module, base: Optimizer, *, rho: float = 0.05) -> None:
        if not 0.0 <= rho < float("inf"):
            raise UserError(f"rho must be finite and not negative, got {rho}")
        self._model = model
        self._base = base
        self.rho = rho
        self._is_ready = False
        super().__init__(base.param_groups, base.defaults)
        self._share()

    def _share(self) -> None:
        self.defaults = self._base.defaults
        self.param_groups = self._base.param_groups
        self.state = self._base.state

    @contextmanager
    def perturbed(self) -> Generator[None]:
        """Moves the parameters to x + eps, eps from the current gradients; moves back afterwards.

        Yields:
            Nothing.

        Raises:
            UserError: if no parameter has a gradient, or one has a sparse gradient.
        """
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not moved:
            raise UserError("SAM needs gradients to perturb: call backward() before perturbed()")
        if any(p.grad.is_sparse for p in moved):
            raise UserError("SAM needs dense gradients: make embeddings with sparse=False")
        own = [torch.empty_like(p) for p in moved]
        with torch.no_grad():
            torch._foreach_copy_(own, moved)
            self._ascend(moved)
        try:
            with _statistics_kept(self._model):
                yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(moved, own)
        self._is_ready = True

    def _ascend(self, params: list[Tensor]) -> None:
        """Moves the parameters by eps."""
        if not self.rho > 0.0:
            return
        by_device: dict[torch.device, list[Tensor]] = {}
        for p in params:
            by_device.setdefault(p.device, []).append(p)
        norm = _norm([p.grad for p in params if p.grad is not None])
        scale = self.rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        for device, here in by_device.items():
            grads = [p.grad for p in here if p.grad is not None]
            torch._foreach_add_(here, torch._foreach_mul(grads, scale.to(device)))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The base optimizer's step, with the second gradient.

        Args:
            closure: clears gradients, computes the loss, calls backward and returns the loss; not
                with the step in parts.

        Returns:
            The loss at x, if there is a closure.

        Raises:
            UserError: if there is neither a closure nor a second gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if self.rho > 0.0:
                with self.perturbed(), torch.enable_grad():
                    closure()
        elif not self._is_ready and self.rho > 0.0:
            raise UserError(
                "SAM needs a second gradient: compute it within `with optimizer.perturbed():` "
                "before step(), or call step() with a closure"
            )
        self._is_ready = False
        self._base.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients, as the base optimizer does."""
        self._base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state; SAM itself has none."""
        return self._base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict`, or the base optimizer's, returned."""
        self._base.load_state_dict(state_dict)
        self._share()


def _norm(grads: list[Tensor]) -> Tensor:
    """L2 norm over all gradients, on the first one's device, in float32 or wider."""
    wide = torch.float64 if any(g.dtype == torch.float64 for g in grads) else torch.float32
    norms = torch._foreach_norm(grads, dtype=wide)
    total: Tensor = vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    return total


@contextmanager
def _statistics_kept(model: nn.Module) -> Generator[None]:
    """Keeps BatchNorm layers in training mode from updating their running statistics."""
    updating = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    for module in updating:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in updating:
            module.track_running_stats = True
