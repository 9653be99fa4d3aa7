"""A function that does nothing: what the Functions host alone can do."""

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route("callback", methods=["GET"])
async def callback(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001 - bound by its name
    """Answer."""
    return func.HttpResponse("{}", mimetype="application/json")
