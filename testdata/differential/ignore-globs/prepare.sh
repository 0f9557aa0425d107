echo x > 'lit*eral'; echo x > literal
