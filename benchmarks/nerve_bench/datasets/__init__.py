"""The field's benchmarks in their own folder layouts: what is here, and its pictures and labels."""

from nerve_bench.datasets.benchmarks import BENCHMARKS as BENCHMARKS
from nerve_bench.datasets.benchmarks import Benchmark as Benchmark
from nerve_bench.datasets.benchmarks import Dataset as Dataset
from nerve_bench.datasets.benchmarks import class_lines as class_lines
from nerve_bench.datasets.benchmarks import open_dataset as open_dataset
from nerve_bench.datasets.layouts import Sample as Sample
