"""Load the server over loopback: throughput, latency under load, overload. Writes one JSON file.

python benchmarks/serving.py --output benchmarks/results/serving.json

The server (`rerank-plugins serve --model bundled`) and the clients run in processes of their own, on the same cores.
Every reply is compared with what the same scorer gives in this process.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.bench.workload import Workload
from rerank_plugins.machine import machine
