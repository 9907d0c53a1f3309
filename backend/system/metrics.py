"""Counters and timers for Prometheus. Leaf modules count here; `backend.web.operations` shows it at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Everything of this process, apart from prometheus_client's own default registry, which libraries may write to.
REGISTRY = CollectorRegistry()

# From a health check to a project of a thousand tasks.
REQUEST_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 15, 60, 300)
STAGE_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60)

REQUESTS = Counter(
    "premask_requests_total", "Requests answered; refused predictions are 503.", ["route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "premask_request_seconds",
    "From a request's arrival to the end of its answer.",
    ["route"],
    buckets=REQUEST_BUCKETS,
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("premask_requests_in_flight", "Requests being answered.", ["route"], registry=REGISTRY)
GIVEN_UP = Counter(
    "premask_connections_given_up_total",
    "Requests whose headers or body came too slowly, answers that were not read, and connections that made room for "
    "others.",
    ["part"],
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "premask_stage_seconds",
    "Stages of a prediction: fetch (an image, with decoding), predict (a batch on the networks), encode (a task's "
    "regions).",
    ["stage"],
    buckets=STAGE_BUCKETS,
    registry=REGISTRY,
)
ANSWERS = Counter(
    "premask_answers_total",
    "Tasks asked for: answered from memory (hit), by waiting for another request (joined), or worked out (miss).",
    ["how"],
    registry=REGISTRY,
)
ANSWER_BYTES = Gauge("premask_answer_bytes", "Compressed size of the answers kept in memory.", registry=REGISTRY)
