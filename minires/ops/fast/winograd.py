def pays(cache):
    return False
