def write_card(target, run, probe):
    pass
