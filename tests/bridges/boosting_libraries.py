"""XGBoost and LightGBM as the tests of xent.boosting use them: both with the same few methods, on one thread.

Custom objectives start from equal scores, and so must the built-in ones: XGBoost with a `base_score`, LightGBM without
`boost_from_average`.
"""

import json

import numpy as np

ROUNDS = 10


class XGBoost:
    method = "xgboost"
    one_score = {"num_class": 0, "objective": "binary:logistic"}        # noqa: RUF012

    def __init__(self, module):
        self.module = module

    def train(self, X, y, weight=None, custom=None, **parameters):
        """A booster; with the built-in objective if there is no custom one."""
        kept = {"nthread": 1, "max_depth": 3, "min_child_weight": 4.1, "base_score": 0.5, "seed": 3}
        if np.ndim(y) == 1:
            kept |= {"objective": "multi:softprob", "num_class": 1 + int(np.max(y))}
        rows = self.module.DMatrix(X, y, weight=weight)
        return self.module.train(kept | parameters, rows, ROUNDS, obj=custom and custom.xgboost)

    def predict(self, booster, X):
        """The scores."""
        return booster.predict(self.module.DMatrix(X), output_margin=True)

    def make_classifier(self, custom=None, **parameters):
        kept = {"n_estimators": ROUNDS, "n_jobs": 1, "max_depth": 3, "min_child_weight": 4.1, "base_score": 0.5}
        function = custom.xgboost_sklearn if custom else "multi:softprob"
        return self.module.XGBClassifier(objective=function, **kept, **parameters)

    def booster_of(self, classifier):
        return classifier.get_booster()

    def trees_of(self, booster):
        """The splits of each tree, as tuples of feature, threshold and both subtrees; leaves are None."""

        def splits(node):
            if "leaf" in node:
                return None
            return node["split"], node["split_condition"], *map(splits, node["children"])

        return [splits(json.loads(tree)) for tree in booster.get_dump(dump_format="json")]


class LightGBM:
    method = "lightgbm"
    one_score = {"num_class": 1}        # noqa: RUF012
    kept = {      # noqa: RUF012
        "num_leaves": 8, "min_data_in_leaf": 20, "boost_from_average": False, "seed": 3, "deterministic": True,
        "force_row_wise": True, "verbosity": -1,
    }  # fmt: skip

    def __init__(self, module):
        self.module = module

    def train(self, X, y, weight=None, custom=None, **parameters):
        function = custom.lightgbm if custom else "multiclass"
        kept = {**self.kept, "num_threads": 1, "num_class": 1 + int(np.max(y)), "objective": function}
        return self.module.train(kept | parameters, self.module.Dataset(X, y, weight=weight), ROUNDS)

    def predict(self, booster, X):
        return booster.predict(X, raw_score=True)

    def make_classifier(self, custom=None, **parameters):
        function = custom.lightgbm_sklearn if custom else "multiclass"
        kept = {**self.kept, "n_jobs": 1, "n_estimators": ROUNDS}
        return self.module.LGBMClassifier(objective=function, **(kept | parameters))

    def booster_of(self, classifier):
        return classifier.booster_

    def trees_of(self, booster):
        def splits(node):
            if "leaf_value" in node:
                return None
            return node["split_feature"], node["threshold"], splits(node["left_child"]), splits(node["right_child"])

        return [splits(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


LIBRARIES = {"xgboost": XGBoost, "lightgbm": LightGBM}
