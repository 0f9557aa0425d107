FROM a
RUN cat <<<x
RUN echo a<<b
