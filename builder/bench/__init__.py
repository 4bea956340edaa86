"""The comparison: native pipelines against their python twins, measured by perf_analyzer."""
