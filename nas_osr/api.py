"""What a user's script calls: commands of the command line as functions with the same options.

The options are the fields of the command's request: signature and help are made of them, and a type checker or an
editor takes the signature from the request's own constructor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_type_hints

from nas_osr.configuration import make_request
from nas_osr.deploy.fit import run_fit
from nas_osr.deploy.fit_request import FitRequest
from nas_osr.files.storage import os_errors
from nas_osr.option_docs import list_options
from nas_osr.reports.notebook import EvaluationAnswers, RetrainingAnswer, SearchAnswer
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest

P = ParamSpec("P")
Request = TypeVar("Request")
Answer = TypeVar("Answer")


def takes(kind: Callable[P, Request]) -> Callable[[Callable[[Request], Answer]], Callable[P, Answer]]:
    """Let a function of a request take the request's options instead; positional ones in the order of the fields."""

    def decorate(function: Callable[[Request], Answer]) -> Callable[P, Answer]:
        hints = {**get_type_hints(kind), "return": get_type_hints(function)["return"]}
        signature = inspect.signature(kind)
        parameters = [item.replace(annotation=hints[name]) for name, item in signature.parameters.items()]
        where = f"nas_osr.{function.__name__}"

        def call(*values: P.args, **options: P.kwargs) -> Answer:
            named = signature.bind_partial(*values).arguments
            with os_errors():
                return function(make_request(kind, dict(**named, **options), where))

        call.__name__ = call.__qualname__ = function.__name__
        call.__module__ = function.__module__
        call.__signature__ = inspect.Signature(parameters, return_annotation=hints["return"])  # type: ignore[attr-defined]
        described = [f"    {option.name}: {option.meaning}" for option in list_options(kind)]
        raises = ["Raises:", "    UserError: an option is wrong, or data are missing."]
        call.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *described, "", *raises])
        return call

    return decorate


@takes(SearchRequest)
def search(request: SearchRequest) -> SearchAnswer:
    """Search an architecture; the result is that of `nas_osr.strategies.run.run_search`."""
    return SearchAnswer(run_search(request, ["nas_osr.search"]))


@takes(RetrainRequest)
def train(request: RetrainRequest) -> RetrainingAnswer:
    """Train and evaluate an architecture; the result is that of `nas_osr.retrain.run.run_retrain`."""
    return RetrainingAnswer(run_retrain(request, ["nas_osr.train"]))


@takes(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> EvaluationAnswers:
    """Evaluate a retrained network again; the result is that of `nas_osr.retrain.evaluate.run_evaluate`."""
    return EvaluationAnswers(run_evaluate(request))


@takes(FitRequest)
def fit(request: FitRequest) -> dict[str, Any]:
    """Make a model of a folder of pictures in a given time; the result is that of `nas_osr.deploy.fit.run_fit`."""
    return run_fit(request, ["nas_osr.fit"])
