"""The routes for people and scripts: jobs and model versions.

GET  /api/jobs[?project=]       jobs, newest first
GET  /api/jobs/ID[?lines=]      one, with the end of its log
POST /api/jobs/ID/cancel        end it
GET  /api/projects/ID/review    accepted tasks that are worth a second look
POST /api/projects/ID/review    look for them anew
POST /api/projects/ID/review/TASK/fine   nothing is wrong with one: it leaves the queue
POST /api/projects/ID/predict   predictions by the served version: {"tasks": "unlabelled"} (or "all")
GET, POST /job_status           state of one job, as Label Studio's own backends answer it
GET  /versions                  names of all model versions
GET  /api/versions[?project=]   versions with their figures
POST /api/versions/promote      {"project", "version"}: serve it from now on
POST /api/versions/rollback     {"project"}: serve the version before
GET  /openapi.json              every route in full; see `backend.web.openapi`
"""

import re
from collections.abc import Mapping
from dataclasses import asdict

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from backend.database.jobs import LOG_LINES, REVIEW
from backend.database.leases import ALL, UNLABELLED
from backend.database.reviews import Reviews
from backend.errors import BadRequest
from backend.jobs.queue import JobQueue
from backend.label_studio.protocol import project_id
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from backend.web.bodies import json_body, json_object
from backend.web.openapi import document
from backend.web.reports import MAX_JOBS, job_report, project_report


def job_routes(jobs: JobQueue) -> Blueprint:
    """/api/jobs, /api/projects and /job_status."""
    routes = Blueprint("jobs", __name__)

    @routes.get("/api/jobs")
    def list_jobs() -> ResponseReturnValue:
        return {"jobs": [job_report(job) for job in jobs.store.find(request.args.get("project"))]}

    @routes.get("/api/jobs/<job_id>")
    def show_job(job_id: str) -> ResponseReturnValue:
        lines = request.args.get("lines", "50")
        if not re.fullmatch("[0-9]{1,4}", lines) or int(lines) > LOG_LINES:
            raise BadRequest(
                f"{request.path}: 'lines' should be a whole number from 0 to {LOG_LINES}, got {lines[:40]!r}"
            )
        return job_report(jobs.store.get(job_id)) | {"log": jobs.store.log_tail(job_id, int(lines))}

    @routes.post("/api/jobs/<job_id>/cancel")
    def cancel_job(job_id: str) -> ResponseReturnValue:
        return job_report(jobs.cancel(job_id))

    @routes.post("/api/projects/<int:project>/predict")
    def predict_project(project: int) -> ResponseReturnValue:
        body = json_body(without={})
        tasks = body.get("tasks", UNLABELLED) if isinstance(body, dict) else None
        if tasks not in (ALL, UNLABELLED):
            raise BadRequest(f"{request.path}: 'tasks' should be {UNLABELLED!r} or {ALL!r}, as JSON, or left out")
        job, joined = jobs.predict(project_id(project, request.path), tasks)
        return {"job": job.id, "project": job.project, "state": job.state, "joined": joined}, 201

    @routes.get("/job_status")
    @routes.post("/job_status")
    def job_status() -> ResponseReturnValue:
        asked = request.args if request.method == "GET" else json_body()
        job_id = asked.get("job") if isinstance(asked, Mapping) else None
        if not isinstance(job_id, str):
            raise BadRequest("/job_status: name the job: ?job=ID or {'job': 'ID'}")
        job = jobs.store.get(job_id)
        return {"job": job.id, "job_status": job.state, "progress": job.progress, "error": job.reason or None}

    return routes


def review_routes(jobs: JobQueue, reviews: Reviews) -> Blueprint:
    """/api/projects/ID/review."""
    routes = Blueprint("reviews", __name__)

    @routes.get("/api/projects/<int:project>/review")
    def waiting(project: int) -> ResponseReturnValue:
        of = project_id(project, request.path)
        return {"project": of, "tasks": [asdict(doubt) for doubt in reviews.waiting(of)]}

    @routes.post("/api/projects/<int:project>/review")
    def look(project: int) -> ResponseReturnValue:
        job, joined = jobs.submit(project_id(project, request.path), REVIEW)
        return {"job": job.id, "project": job.project, "state": job.state, "joined": joined}, 201

    @routes.post("/api/projects/<int:project>/review/<int:task>/fine")
    def fine(project: int, task: int) -> ResponseReturnValue:
        of = project_id(project, request.path)
        reviews.fine(of, str(task))
        return {"project": of, "task": str(task), "waiting": len(reviews.waiting(of))}

    return routes


def version_routes(registry: Registry, serving: Serving, jobs: JobQueue) -> Blueprint:
    """/versions, /api/versions and /openapi.json."""
    routes = Blueprint("versions", __name__)

    @routes.get("/versions")
    def names() -> ResponseReturnValue:
        return {"versions": [name for project in registry.projects() for name in registry.names(project)]}

    @routes.get("/api/versions")
    def list_versions() -> ResponseReturnValue:
        asked = request.args.get("project")
        only = None if asked is None else project_id(asked, request.path)
        projects = registry.projects() if only is None else [only]
        known = jobs.store.find(only, limit=MAX_JOBS)
        return {"projects": [project_report(registry, serving, known, project) for project in projects]}

    @routes.post("/api/versions/promote")
    def promote() -> ResponseReturnValue:
        body = json_object()
        project, version = project_id(body.get("project"), request.path), body.get("version")
        if not isinstance(version, str) or not version:
            raise BadRequest(f"{request.path}: name the version: {{'project': '3', 'version': 'p3-r001'}}")
        return {"project": project, "current": registry.promote(project, version).version}

    @routes.post("/api/versions/rollback")
    def rollback() -> ResponseReturnValue:
        project = project_id(json_object().get("project"), request.path)
        info = registry.rollback(project)
        return {"project": project, "current": None if info is None else info.version}

    @routes.get("/openapi.json")
    def description() -> ResponseReturnValue:
        return document()

    return routes
