FROM a # the base
