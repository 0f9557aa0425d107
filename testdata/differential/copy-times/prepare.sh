mkdir -p tree/sub; echo times > tree/leaf; echo times below > tree/sub/leaf; ln -s leaf tree/link
touch -d 2001-02-03T04:05:06Z tree/leaf; touch -d 1960-01-01T00:00:00Z tree/sub/leaf; touch -hd 2002-01-01T00:00:00Z tree/link
touch -d 2003-01-01T00:00:00Z tree/sub; touch -d 2004-01-01T00:00:00Z tree
