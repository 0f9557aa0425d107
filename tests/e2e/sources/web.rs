//! A web server that answers as a test says and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// End the connection after half of the body.
    pub(crate) cut: bool,
    /// Do not say how long the body is: it ends with the connection.
    pub(crate) lengthless: bool,
}

impl Answer {
    /// A file.
    pub(crate) fn file(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            cut: false,
            lengthless: false,
        }
    }

    /// A status alone.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::file("")
        }
    }

    /// A redirect.
    pub(crate) fn redirect(location: impl Into<String>) -> Self {
        Self::status(302).with("Location", location)
    }

    /// One more header.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A server on loopback; stopped when dropped.
pub(crate) struct Web {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Request>>>,
    handler: Arc<Mutex<Arc<Handler>>>,
    stopped: Arc<AtomicBool>,
}

impl Web {
    /// Answers as `handler` says.
    pub(crate) fn serve(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
            handler: Arc::new(Mutex::new(Arc::new(handler))),
            stopped: Arc::default(),
        };
        let (asked, handler, stopped) =
            (web.asked.clone(), web.handler.clone(), web.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (asked, handler) = (asked.clone(), handler.clone());
                std::thread::spawn(move || answer(stream, &asked, &handler));
            }
        });
        web
    }

    /// The same answer for everything.
    pub(crate) fn of(answer: Answer) -> Self {
        Self::serve(move |_| answer.clone())
    }

    /// Answers otherwise from now on.
    pub(crate) fn now(&self, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Arc::new(handler);
    }

    /// A URL on this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked since this was last called.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(&self.address);
    }
}

fn answer(mut stream: TcpStream, asked: &Mutex<Vec<Request>>, handler: &Mutex<Arc<Handler>>) {
    let Some(request) = read(&stream) else { return };
    asked.lock().unwrap().push(request.clone());
    let handler = handler.lock().unwrap().clone();
    let Answer {
        status,
        headers,
        body,
        cut,
        lengthless,
    } = handler(&request);
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if status != 304 && !lengthless {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let sent = if cut {
        &body[..body.len() / 2]
    } else {
        &body[..]
    };
    // Who asked may have gone away.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(sent));
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}
