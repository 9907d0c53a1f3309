"""The routes for jobs: what they do, and starting and ending them by hand.

GET  /api/jobs[?project=]       jobs, newest first
GET  /api/jobs/ID[?lines=]      one, with the end of its log
POST /api/jobs/ID/cancel        end it
POST /api/projects/ID/predict   predictions by the served version: {"tasks": "unlabelled"} (or "all")
"""

import re
from typing import Any

from flask import Blueprint, request

from backend.database.jobs import LOG_LINES
from backend.database.leases import ALL, UNLABELLED
from backend.errors import BadRequest
from backend.jobs.queue import JobQueue
from backend.label_studio.protocol import project_id
from backend.web.bodies import json_body
from backend.web.reports import job_report


def job_routes(jobs: JobQueue) -> Blueprint:
    """The routes as a blueprint."""
    routes = Blueprint("jobs", __name__)

    @routes.get("/api/jobs")
    def list_jobs() -> Any:
        return {"jobs": [job_report(job) for job in jobs.store.find(request.args.get("project"))]}

    @routes.get("/api/jobs/<job_id>")
    def show_job(job_id: str) -> Any:
        lines = request.args.get("lines", "50")
        if not re.fullmatch("[0-9]{1,4}", lines) or int(lines) > LOG_LINES:
            raise BadRequest(
                f"{request.path}: 'lines' should be a whole number from 0 to {LOG_LINES}, got {lines[:40]!r}"
            )
        return job_report(jobs.store.get(job_id)) | {"log": jobs.store.log_tail(job_id, int(lines))}

    @routes.post("/api/jobs/<job_id>/cancel")
    def cancel_job(job_id: str) -> Any:
        return job_report(jobs.cancel(job_id))

    @routes.post("/api/projects/<int:project>/predict")
    def predict_project(project: int) -> Any:
        body = json_body(without={})
        tasks = body.get("tasks", UNLABELLED) if isinstance(body, dict) else None
        if tasks not in (ALL, UNLABELLED):
            raise BadRequest(f"{request.path}: 'tasks' should be {UNLABELLED!r} or {ALL!r}, as JSON, or left out")
        job, joined = jobs.predict(project_id(project, request.path), tasks)
        return {"job": job.id, "project": job.project, "state": job.state, "joined": joined}, 201

    return routes
