//! A headless Chromium, driven over its debugging pipe (Chrome DevTools Protocol; `--remote-debugging-pipe`): messages of JSON, each
//! ended by a zero byte, on descriptors 3 and 4.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A browser that hangs ends after this, and with it the test.
const LIMIT: &str = "180";
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
];

/// One page. All calls block. Ended when dropped.
pub struct Browser {
    child: Child,
    input: File,
    output: BufReader<File>,
    session: Option<String>,
    next: u64,
    /// What the page did that nobody asked for: exceptions, and refusals by its policy.
    pub complaints: Vec<String>,
    _dir: TempDir,
}

impl Browser {
    /// `None`, with a line that says so, where there is no Chromium: `$CHROMIUM`, else the one on PATH.
    ///
    /// # Panics
    /// There is none although everything is required (`CI` or `MVP_REQUIRE_ALL` is set).
    pub fn find() -> Option<PathBuf> {
        let program = PathBuf::from(std::env::var_os("CHROMIUM").unwrap_or("chromium".into()));
        let works = Command::new(&program)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success());
        if !works {
            let required = ["CI", "MVP_REQUIRE_ALL"]
                .iter()
                .any(|name| std::env::var_os(name).is_some());
            assert!(!required, "{} does not run", program.display());
            println!("skipped: {} does not run (set CHROMIUM)", program.display());
            return None;
        }
        Some(program)
    }

    /// Opens this page in a browser without any history or settings.
    ///
    /// # Errors
    /// The browser does not start, or does not know the address.
    pub fn open(program: &std::path::Path, url: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (to, from) = (dir.path().join("to"), dir.path().join("from"));
        let made = Command::new("mkfifo").args([&to, &from]).status()?;
        ensure!(made.success(), "mkfifo: {made}");
        let child = Command::new("timeout")
            .args(["--kill-after=5", LIMIT, "sh", "-c"])
            .arg("to=$1 from=$2; shift 2; exec \"$@\" 3<\"$to\" 4>\"$from\"")
            .arg("sh")
            .args([&to, &from])
            .arg(program)
            .args(FLAGS)
            .arg(format!(
                "--user-data-dir={}",
                dir.path().join("user").display()
            ))
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Each of these waits for the other side, in the order in which the shell opens them.
        let input = OpenOptions::new().write(true).open(&to)?;
        let output = BufReader::new(File::open(&from)?);
        let mut browser = Self {
            child,
            input,
            output,
            session: None,
            next: 0,
            complaints: Vec::new(),
            _dir: dir,
        };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}))?;
        }
        browser.call("Page.navigate", json!({ "url": url }))?;
        Ok(browser)
    }

    /// The value of a script in the page.
    ///
    /// # Errors
    /// It throws.
    pub fn value(&mut self, script: &str) -> Result<Value> {
        let params = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", params)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{script}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until a script in the page says `true`.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn until(&mut self, script: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // While the page is being replaced there is nothing to ask.
            let value = self.value(script);
            if matches!(value, Ok(Value::Bool(true))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let page = self.value("document.body && document.body.innerText");
                bail!("not within {limit:?}: {script} ({value:?})\n{page:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A window of this size, with this colour scheme: `light` or `dark`.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )?;
        Ok(())
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: &str, code: u32) -> Result<()> {
        let text = match key {
            "Enter" => "\r",
            _ => "",
        };
        let down = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        self.call("Input.dispatchKeyEvent", down)?;
        let up = json!({ "type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", up)?;
        Ok(())
    }

    /// What the window shows, as PNG.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let data = shot["data"].as_str().context("a picture")?;
        Ok(STANDARD.decode(data)?)
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes)?;
        loop {
            let mut answer = Vec::new();
            self.output.read_until(0, &mut answer)?;
            ensure!(answer.pop() == Some(0), "the browser has ended");
            let answer: Value = serde_json::from_slice(&answer)?;
            if answer["id"] == self.next {
                if let Some(error) = answer.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(answer["result"].clone());
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => {
                &event["params"]["entry"]
            }
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to, it ends all of its processes.
        self.session = None;
        let _ = self.call("Browser.close", json!({}));
        let _ = self.child.wait();
    }
}
