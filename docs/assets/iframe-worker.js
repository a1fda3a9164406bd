// Pages opened as files may not start workers: there the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  const load = (frame, url) => new Promise((done) => {
    const script = frame.contentDocument.createElement("script")
    Object.assign(script, { src: url, onload: done })
    frame.contentDocument.head.append(script)
  })
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise((done) => {
        this.frame.onload = () => {
          const inside = this.frame.contentWindow
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
          inside.importScripts = (...urls) =>
            urls.reduce((before, next) => before.then(() => load(this.frame, next)), Promise.resolve())
          load(this.frame, url).then(done)
        }
      })
      this.frame.srcdoc = "<!doctype html><head></head>"
      document.body.append(this.frame)
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
