"""What can go wrong in the pipeline. Messages read: where: expected X, got Y; do Z."""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error the pipeline raises on purpose; `exit_code` is the command's."""

    exit_code = 1


class InputError(PipelineError):
    """The dataset is missing, empty, damaged, inconsistent, or changed during the run."""


class BindingError(PipelineError):
    """Fields of the dataset do not fit the model's inputs or outputs."""


class OutputError(PipelineError):
    """The output folder is locked, holds something else, or cannot be written."""


class StorageError(OutputError):
    """The disk is full or failing: no fault of the command. The run can be resumed."""

    exit_code = 4


class MemoryPlanError(PipelineError):
    """The plan's memory bound does not fit the machine; nothing was started."""


class RowError(PipelineError):
    """A row that cannot become a tensor, or (field "") that the model cannot run on.

    `row` counts from 0 in what was converted.
    """

    def __init__(self, row: int, field: str, reason: str) -> None:
        where = f"row {row}, field {field!r}" if field else f"row {row}"
        super().__init__(f"{where}: {reason}")
        self.row = row
        self.field = field
        self.reason = reason


class StageLost(PipelineError):
    """The process of a later stage has ended: the scorer it belongs to cannot go on."""

    exit_code = 4
