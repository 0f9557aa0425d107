FROM a
COPY <<'A' /a
$x
A
COPY <<B /b
$x
B
COPY <<\C /c
$x
C
