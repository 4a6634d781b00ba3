"""The API of a site's own preparer: it hands the caller's token to the worker in the message."""

from celery.result import AsyncResult
from fastapi import FastAPI, Request

from src.prepare_data.tasks import app as queue
from src.prepare_data.tasks import prepare_data

app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/")
async def submit(request: Request) -> dict[str, str]:
    token = request.headers["authorization"].removeprefix("Bearer ")
    task = prepare_data.delay(token, await request.json())
    return {"task_id": task.id}


@app.get("/{task_id}")
def status(task_id: str) -> dict[str, str]:
    result = AsyncResult(task_id, app=queue)
    return {"status": result.status, "info": str(result.result)}
