"""A progress bar over epochs."""

from __future__ import annotations

from typing import Any


class EpochBar:
    """One bar per network, on standard error; gone into its last line when closed."""

    def __init__(self, n_epochs: int, label: str, position: int) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as err:
            raise ImportError(
                "verbose=1 shows its progress with tqdm, which is not installed; run pip install 'mttab[neural]'."
            ) from err
        self._bar = tqdm(total=n_epochs, desc=label, unit="epoch", position=position)

    def __call__(self, figures: dict[str, Any]) -> None:
        """Count an epoch and show its figures."""
        is_pretext = figures.get("phase") == "pretext"
        shown = {"pretext" if is_pretext else "loss": f"{figures['pretext_loss' if is_pretext else 'train_loss']:.4f}"}
        if "validation_score" in figures:
            shown["score"] = f"{figures['validation_score']:.4f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Stop counting."""
        self._bar.close()
