FROM a  
RUN make 	 
USER  root  
