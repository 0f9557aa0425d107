FROM a
RUN make \

CMD x
INSTALL y
