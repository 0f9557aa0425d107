ln -s file to-file
ln -s tree to-dir
ln -s /file absolute
ln -s leaf tree/inside
ln -s ../file tree/up
ln -s /etc/passwd tree/outside
ln -s nowhere tree/dangling
ln -s . tree/self
