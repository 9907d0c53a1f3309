"""The summary after the steps: masks, their quality, addresses and next steps."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from backend.demo.predictions import Scores
from backend.demo.servers import Login


@dataclass(frozen=True)
class Summary:
    """Result of a run."""

    label_studio: str
    backend: str
    project: int
    login: Login
    scores: Scores
    seconds: dict[str, float]
    folder: Path

    def command(self, name: str, options: str) -> str:
        """A command of premask as it finds this run's data."""
        usual = self.folder.resolve() == Path("premask-data").resolve()
        return f"{'' if usual else f'PREMASK_DATA_DIR={self.folder} '}.venv/bin/premask {name} {options}"

    @property
    def dashboard(self) -> str:
        """The page of the sample project."""
        return f"{self.backend}/dashboard/projects/{self.project}"

    def write(self, path: Path) -> None:
        """Write it as JSON, without the password and the token."""
        content: dict[str, Any] = {
            "label_studio": self.label_studio,
            "backend": self.backend,
            "project": self.project,
            "dashboard": self.dashboard,
            "email": self.login.email,
            "tasks": self.scores.tasks,
            "tasks_predicted": self.scores.predicted,
            "tasks_with_masks": self.scores.with_masks,
            "model_versions": list(self.scores.versions),
            "classes": {name: asdict(score) for name, score in self.scores.classes.items()},
            "mean_iou": {name: round(score.iou, 4) for name, score in self.scores.classes.items()},
            "seconds": self.seconds | {"all": round(sum(self.seconds.values()), 1)},
        }
        path.write_text(json.dumps(content, indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Print it."""
        scores = self.scores
        console.print(
            f"\n[bold]{scores.with_masks} of {scores.tasks} tasks have masks[/bold], "
            f"drawn by {', '.join(scores.versions) or 'no model'} and stored in Label Studio.",
            highlight=False,
        )
        if scores.predicted < scores.tasks:
            console.print(
                f"[yellow]{scores.tasks - scores.predicted} tasks have no prediction: "
                f"{self.folder / 'logs' / 'backend.log'} says why.[/yellow]",
                highlight=False,
            )
        table = Table("Class", "Frames that show it", "Mean IoU with the exact masks", header_style="bold")
        for name, score in scores.classes.items():
            table.add_row(name, str(score.frames), f"{score.iou:.3f}")
        console.print(table)
        console.print(
            Panel(
                f"Open      [bold]{self.label_studio}/projects/{self.project}/data[/bold]\n"
                f"Log in    {self.login.email}   password {self.login.password}\n"
                f"Dashboard [bold]{self.dashboard}[/bold]\n\n"
                "Correct   click a task: its masks are drawn; brush, erase, Submit\n"
                "Train     after a few: Settings > Model > ••• > Start Training, or on the dashboard\n"
                "Redraw    select tasks, then Actions > Retrieve Predictions\n"
                f"Shell     {self.command('versions list', f'--project {self.project}')}\n\n"
                f"Logs in {self.folder / 'logs'}; [bold]Ctrl-C[/bold] stops everything and keeps your work.",
                title="premask is ready",
                expand=False,
                highlight=False,
            )
        )
