from a
entrypont x
