"""Public data sets by name, from the hub or a local file; none of them is shipped."""

from mogu.evaluation.datasets.catalog import CATALOG, DatasetSpec, Measures, dataset_spec
from mogu.evaluation.datasets.reading import read_dataset, read_templates
from mogu.evaluation.datasets.sources import DATA_DIR

__all__ = [
    "CATALOG",
    "DATA_DIR",
    "DatasetSpec",
    "Measures",
    "dataset_spec",
    "read_dataset",
    "read_templates",
]
