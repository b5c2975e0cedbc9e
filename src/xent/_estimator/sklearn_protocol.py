"""The protocols of scikit-learn's estimators: parameters, tags, metadata routing, the HTML view, and its exceptions.

scikit-learn is imported only in methods that it calls itself, and for the HTML view.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=type[Exception])
E = TypeVar("E", bound="Estimator")


class DataConversionWarning(UserWarning):
    """An argument had another shape than required, and was reshaped."""


def shared(own: T) -> T:
    """The exception or warning; if scikit-learn has been imported, a class that is its one of the same name as well.

    Code that catches or filters scikit-learn's class has imported it.
    """
    theirs = getattr(sys.modules.get("sklearn.exceptions"), own.__name__, None)
    return own if theirs is None else cast(T, _derive(cast(Any, own), theirs))


@functools.cache
def _derive(own: type[Exception], theirs: type[Exception]) -> type[Exception]:
    """A class that inherits from both."""

    def reduce(self: Exception) -> tuple[Any, ...]:
        return _restore, (own, self.args)

    body = {"__doc__": own.__doc__, "__module__": own.__module__, "__reduce__": reduce}
    return type(own.__name__, (own, theirs), body)


def _restore(own: type[Exception], args: tuple[Any, ...]) -> Exception:
    """Unpickle an exception in a process that may not have imported scikit-learn."""
    return shared(own)(*args)


class Estimator:
    """The parameters of the constructor by name, and scikit-learn's protocols."""

    _estimator_type = "classifier"      # for scikit-learn before 1.6

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor, by name.

        Parameters
        ----------
        deep : bool
            Accepted for compatibility.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self: E, **params: Any) -> E:
        """Change parameters of the constructor.

        Parameters
        ----------
        **params : dict
            New values by name.

        Returns
        -------
        LogisticRegression
            The estimator itself.

        Raises
        ------
        ValueError
            If there is no parameter of that name. No parameter is changed then.
        """
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(f"{name!r} is not a parameter of {type(self).__name__}; available: {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = (f"{k}={v!r}" for k, v in self.get_params().items() if not _is_default(v, defaults[k].default))
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return all(hasattr(self, name) for name in ("classes_", "coef_", "intercept_"))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            classifier_tags=ClassifierTags(),
            regressor_tags=None,
            input_tags=InputTags(sparse=True),
        )

    # Metadata routing: which of the arguments of a pipeline or a search are passed to the estimator.

    def get_metadata_routing(self) -> Any:
        """The arguments that the estimator requests in scikit-learn's metadata routing.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRequest
        """
        import copy  # here, so that importing xent does not pay for it

        return copy.deepcopy(self._requests())

    def set_fit_request(self: E, **requests: bool | str | None) -> E:
        """Request `sample_weight` in `fit`, in scikit-learn's metadata routing.

        Parameters
        ----------
        sample_weight : bool, None or str
            True: pass it if given; False: do not; None: raise if given; a string: pass the argument of that name.

        Returns
        -------
        LogisticRegression
            The estimator itself.
        """
        return self._request("fit", requests)

    def set_partial_fit_request(self: E, **requests: bool | str | None) -> E:
        """Request `classes` and `sample_weight` in `partial_fit`; see `set_fit_request`."""
        return self._request("partial_fit", requests)

    def set_score_request(self: E, **requests: bool | str | None) -> E:
        """Request `sample_weight` in `score`; see `set_fit_request`."""
        return self._request("score", requests)

    def _request(self: E, method: str, requests: dict[str, Any]) -> E:
        for argument, value in requests.items():
            if argument not in _ROUTED[method]:
                raise TypeError(f"{method} takes no {argument}; available: {', '.join(_ROUTED[method])}")
            if not (value is None or isinstance(value, bool | str)):
                raise TypeError(f"{argument} is {value!r}; it must be True, False, None or a name")
        all_requests = self._requests()
        for argument, value in requests.items():
            getattr(all_requests, method).add_request(param=argument, alias=value)
        self._metadata_request = all_requests       # scikit-learn's clone() copies this attribute
        return self

    def _requests(self) -> Any:
        """The requests so far: at first, for nothing."""
        if hasattr(self, "_metadata_request"):
            return self._metadata_request
        from sklearn.utils.metadata_routing import MetadataRequest

        nothing = MetadataRequest(owner=type(self).__name__)
        for method, arguments in _ROUTED.items():
            for argument in arguments if hasattr(self, method) else ():
                getattr(nothing, method).add_request(param=argument, alias=None)
        return nothing

    # The view in notebooks, which is scikit-learn's; it asks for the two tables.

    def _repr_html_(self) -> str | None:
        try:
            from sklearn import get_config
            from sklearn.utils import estimator_html_repr
        except ImportError:
            return None     # notebooks show repr(self) then
        return str(estimator_html_repr(self)) if get_config()["display"] == "diagram" else None

    def _get_params_html(self, *args: Any, **options: Any) -> Any:
        from sklearn.base import BaseEstimator

        return BaseEstimator._get_params_html(self, *args, **options)

    def _get_fitted_attr_html(self, *args: Any, **options: Any) -> Any:
        from sklearn.base import BaseEstimator

        return BaseEstimator._get_fitted_attr_html(self, *args, **options)


def _is_default(value: object, default: object) -> bool:
    return value is default or (type(value) is type(default) and value == default)


_ROUTED = {
    "fit": ("sample_weight",),
    "partial_fit": ("classes", "sample_weight"),
    "score": ("sample_weight",),
}
