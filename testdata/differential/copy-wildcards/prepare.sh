echo star > 'star*'; echo no > starlet
