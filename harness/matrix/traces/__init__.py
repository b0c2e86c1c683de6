"""Read recorded workloads: data sets in the format of FlashInfer Trace. No torch.

Where to start:
    trace_format      definitions and workloads as pydantic models
    trace_folder      a data set on disk, checked, each error as one line
    tensor_header     names, dtypes and shapes of a safetensors file, without its values
    trace_cases       a recorded workload -> cases
"""
