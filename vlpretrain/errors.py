"""The error that a person can act on. Imports nothing of ours."""


class UserError(Exception):
    """A mistake in what the user gave: said without a traceback, exit code 2.

    Args:
        problem: what is wrong, with the value that was found.
        where: the file, shard, key or config field that it was found in.
        fix: what to do about it.
    """

    def __init__(self, problem: str, *, where: str = "", fix: str = "") -> None:
        self.problem, self.where, self.fix = problem, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{place}{self.problem}{fix}"
