FROM ${A:-b}
ENV X=${Y#z*}
USER $U
WORKDIR $W
RUN echo $x
