TABLES = {
    a: {d: {2: ((32, 32, 4, 2),) * 4, 4: ((32, 32, 4, 2),) * 4} for d in ("forward", "query_gradient", "key_gradient")}
    for a in ("sm90", "sm80", "sm100", "gfx942")
}
