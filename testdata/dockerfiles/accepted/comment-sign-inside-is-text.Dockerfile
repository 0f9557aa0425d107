FROM a
RUN echo a # b
ENV A=b#c D=#e
