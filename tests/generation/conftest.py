"""A real vLLM server of each model, for all tests of a session that run against one. The engine
begins it again where a test broke it.
"""

import gc

import pytest
from vllm_served import MODELS, Served, write_model


@pytest.fixture(scope='session', params=MODELS)
def served(request, tmp_path_factory):
  directory = tmp_path_factory.mktemp(f'vllm_{request.param}')
  write_model(directory, request.param)
  made = Served(directory)
  made.load()
  yield made
  made.engine.close()
  gc.collect()  # what tests' filters of warnings cover, before they end
