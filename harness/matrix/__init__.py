"""The case, its axes and its id; the matrix file, and its expansion into cases. No torch.

Where to start:
    case              MoETestConfig, one frozen case, and its id
    main_axes         the axes that every case has: sizes, members, layout
    case_axes         all other axes
    load              the matrix file, checked, each error with line and column
    expand            the blocks of a suite -> cases
    hf_config         the config.json of a real model -> the facts of its layer
"""
