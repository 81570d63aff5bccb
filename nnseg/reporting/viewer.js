"use strict";
(() => {
  const root = document.currentScript.closest(".viewer");
  const find = name => root.querySelector(`[data-viewer="${name}"]`);
  const page = JSON.parse(find("about").textContent);
  const canvas = find("canvas"), over = find("outlines"), stage = find("stage");
  const UNCERTAIN = 0.02, DOUBTFUL = 0.5;  // where colours begin and end
  const DOUBT = { R: [0, 120, 230, 255], G: [0, 40, 110, 245], B: [0, 140, 60, 160], A: [0, 110, 190, 230], I: [0, 64, 160, 255] };
  const AXIS = { axial: 2, coronal: 1, sagittal: 0 };  // that the slices lie across: x, y or z
  const FLIPPED = [true, true, false];  // ours count to the left, posterior and superior; niivue's to the right, anterior and superior
  let nv, starting, turn = 0, now, here = null, layers = {}, lines = new Map(), spoken;

  const unpack = async id => {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), c => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  };

  // What is shown ---------------------------------------------------------------------------------------------------------------

  const chosen = () => page.cases[find("case").value];
  const current = () => now;  // the one chosen, once it is unpacked
  const layout = () => current().flat ? "axial" : root.querySelector('[name="viewer-layout"]:checked').value;
  const asked = name => Boolean(layers[name] && find(name)?.checked);
  const outlinesOnly = () => find("lines").checked && layout() !== "render";

  const apply = () => {
    const fill = layout() === "render" ? 1 : outlinesOnly() ? 0 : find("opacity").value / 100;
    const scan = layers.scan, width = find("window").value / 100 * here.width, level = here.low + find("level").value / 100 * here.width;
    if (!current().colour) [scan.cal_min, scan.cal_max] = [level - width / 2, level + width / 2];
    scan.opacity = layout() === "render" ? 0.12 : 1;
    for (const name of ["reference", "prediction"]) if (layers[name]) layers[name].opacity = asked(name) ? fill : 0;
    if (layers.uncertainty) layers.uncertainty.opacity = asked("uncertainty") && layout() !== "render" ? 0.8 : 0;
    if (find("scale")) find("scale").hidden = !asked("uncertainty");
    find("opacity-value").textContent = `${find("opacity").value} %`;
    find("window-value").textContent = short(width);
    find("level-value").textContent = short(level);
    nv.updateGLVolume();
  };

  const arrange = () => {
    const chosen = layout();
    nv.setSliceType({ axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 }[chosen]);
    apply();
    say();
  };

  const show = async () => {
    const mine = ++turn, shown = chosen(), channel = Number(find("channel").value) || 0;
    stage.setAttribute("aria-busy", "true");
    const wanted = { scan: shown.scans[channel].id, ...shown.maps };
    const names = ["scan", "reference", "prediction", "uncertainty"].filter(name => wanted[name]);
    const loaded = await Promise.all(names.map(async name => niivue.NVImage.new(await unpack(wanted[name]), `${name}.nii`, name === "uncertainty" ? "doubt" : "gray")));
    if (mine !== turn) return;  // another case was chosen meanwhile
    now = shown;
    layers = Object.fromEntries(names.map((name, i) => [name, loaded[i]]));
    for (const name of ["reference", "prediction"]) layers[name]?.setColormapLabel(colours(name));
    if (layers.uncertainty) [layers.uncertainty.cal_min, layers.uncertainty.cal_max] = [UNCERTAIN, DOUBTFUL];
    const { scl_slope: slope, scl_inter: low } = layers.scan.hdr;
    here = { low, width: 255 * slope, slope };
    lines = new Map();
    nv.volumes = [];
    for (const volume of loaded) nv.addVolume(volume);
    nv.opts.isOrientationTextVisible = !shown.flat;
    arrange();
    stage.setAttribute("aria-busy", "false");
  };

  const colours = side => {
    const rgb = page.labels.map(label => [1, 3, 5].map(i => parseInt(label[side].slice(i, i + 2), 16)));
    const row = i => [0, ...rgb.map(c => c[i])];
    return { R: row(0), G: row(1), B: row(2), A: [0, ...rgb.map(() => 255)], I: [0, ...rgb.map((_, i) => i + 1)], labels: ["background", ...page.labels.map(l => l.name)] };
  };

  const pick = async () => {
    const shown = chosen();
    find("notes").textContent = shown.notes.join(" ");
    find("channel").replaceChildren(...shown.scans.map((scan, i) => new Option(scan.name, i)));
    find("channels").hidden = shown.scans.length < 2;
    find("layouts").hidden = shown.flat;
    root.querySelectorAll('[data-viewer="grey"]').forEach(slider => { slider.hidden = shown.colour; });
    find("jumps").hidden = shown.flat || !Object.keys(shown.jumps).length;
    find("jump-title").textContent = `Slice with most ${shown.jumpsTo}`;
    for (const name of ["reference", "uncertainty"]) if (find(name)) find(name).disabled = !shown.maps[name];
    reset();
    await show();
    if (now !== shown) return;
    nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    go(shown.start);
  };

  const reset = () => { find("window").value = 100; find("level").value = 50; find("opacity").value = 25; };

  // Where -----------------------------------------------------------------------------------------------------------------------

  const turned = place => place.map((p, axis) => FLIPPED[axis] ? current().shape[axis] - 1 - p : p);

  const place = () => turned(Array.from(nv.frac2vox(nv.scene.crosshairPos), Math.round));

  const go = wanted => {
    const inside = wanted.map((p, axis) => Math.min(Math.max(p, 0), current().shape[axis] - 1));
    nv.scene.crosshairPos = nv.vox2frac(turned(inside));
    nv.drawScene();
    say();
  };

  const value = (name, [x, y, z]) => layers[name].img[x + current().shape[0] * (y + current().shape[1] * z)];

  const short = number => Number.isInteger(number) ? String(number) : String(Number(number.toPrecision(Math.abs(number) >= 100 ? 4 : 3)));

  const label = (name, at) => page.labels[value(name, at) - 1]?.name ?? "background";

  const say = () => {
    clearTimeout(spoken);
    spoken = setTimeout(() => { find("place").textContent = describe(); }, 120);  // not each step of a drag
  };

  const describe = () => {
    const shown = current(), at = place();
    const voxel = at.map((p, axis) => shown.first[axis] + Math.floor((p + 0.5) * shown.factor[axis]));
    const mm = shown.affine.map(row => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
    const world = mm.map((p, axis) => `${Math.abs(p).toFixed(1)} mm ${["LR", "PA", "IS"][axis][Number(p >= 0)]}`).join(", ");
    const where = shown.flat ? `Pixel (x, y) ${voxel[0]}, ${voxel[1]}` : `Voxel (x, y, z) ${voxel.join(", ")} · ${world}`;
    const said = shown.colour ? [] : [`intensity ${short(here.low + here.slope * value("scan", at))}`];
    for (const name of ["reference", "prediction"]) if (layers[name]) said.push(`${name} ${label(name, at)}`);
    if (layers.uncertainty) said.push(`uncertainty ${(value("uncertainty", at) / 255).toFixed(2)}`);
    canvas.setAttribute("aria-label", `${shown.name}, ${shown.caption}: ${layout() === "render" ? "the labels in 3D" : layout() === "all" ? "axial, coronal and sagittal slices" : `${layout()} slice`}`);
    return [where, ...said].join(" · ");
  };

  // Outlines --------------------------------------------------------------------------------------------------------------------

  const trace = (mask, w, h) => {
    // Along the edges between inside and outside, from the middle of each to the middle of the next.
    const next = new Map(), line = w + 1, path = new Path2D();
    const out = (i, j) => i < 0 || j < 0 || i >= w || j >= h || !mask[i + j * w];
    const edge = (from, to) => next.has(from) ? next.get(from).push(to) : next.set(from, [to]);
    for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) if (!out(i, j)) {
      const corner = i + j * line;
      if (out(i, j - 1)) edge(corner, corner + 1);
      if (out(i + 1, j)) edge(corner + 1, corner + 1 + line);
      if (out(i, j + 1)) edge(corner + 1 + line, corner + line);
      if (out(i - 1, j)) edge(corner + line, corner);
    }
    for (const [first, ends] of next) while (ends.length) {
      let from = first, begun = false;
      do {
        const to = next.get(from).pop(), x = (from % line + to % line) / 2, y = (Math.floor(from / line) + Math.floor(to / line)) / 2;
        begun ? path.lineTo(x, y) : path.moveTo(x, y);
        [from, begun] = [to, true];
      } while (from !== first);
      path.closePath();
    }
    return path;
  };

  const slice = (name, axis, index) => {
    // The labels of a slice as outlines, in voxels of its two axes.
    const key = `${name} ${axis} ${index}`;
    if (lines.has(key)) return lines.get(key);
    const shape = current().shape, [u, v] = [0, 1, 2].filter(a => a !== axis), [w, h] = [shape[u], shape[v]], at = [0, 0, 0];
    const labels = new Uint16Array(w * h);
    at[axis] = index;
    for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) { [at[u], at[v]] = [i, j]; labels[i + j * w] = value(name, at); }
    const found = [...new Set(labels)].filter(l => l && page.labels[l - 1]).map(l => ({ colour: page.labels[l - 1][name], path: trace(labels.map(other => Number(other === l)), w, h) }));
    if (lines.size > 400) lines.clear();
    lines.set(key, found);
    return found;
  };

  const project = (tile, axis) => {
    // From voxels of a slice's two axes to pixels of the canvas.
    const [u, v] = [0, 1, 2].filter(a => a !== axis), [left, top, width, height] = tile.leftTopWidthHeight, shape = current().shape;
    const [low, high] = [nv.frac2mm([0, 0, 0]), nv.frac2mm([1, 1, 1])];
    const along = (a, k) => {  // the share of the tile at voxel 0, and per voxel
      const begin = FLIPPED[a] ? high[a] : low[a], end = FLIPPED[a] ? low[a] : high[a];
      return [(begin - tile.leftTopMM[k]) / tile.fovMM[k], (end - begin) / shape[a] / tile.fovMM[k]];
    };
    const [x, dx] = along(u, 0), [y, dy] = along(v, 1);
    return new DOMMatrix([dx * width, 0, 0, -dy * height, left + x * width, top + (1 - y) * height]);
  };

  const outline = () => {
    [over.width, over.height] = [canvas.width, canvas.height];
    const pen = over.getContext("2d"), scale = canvas.width / canvas.clientWidth || 1, at = place();
    for (const tile of nv.screenSlices) {
      const axis = [2, 1, 0][tile.axCorSag];
      if (axis === undefined) continue;
      const [left, top, width, height] = tile.leftTopWidthHeight, matrix = project(tile, axis);
      pen.save();
      pen.beginPath();
      pen.rect(Math.min(left, left + width), top, Math.abs(width), height);
      pen.clip();
      for (const name of ["reference", "prediction"]) if (asked(name)) for (const { colour, path } of slice(name, axis, at[axis])) {
        const drawn = new Path2D();
        drawn.addPath(path, matrix);
        pen.setLineDash(name === "prediction" && layers.reference ? [6 * scale, 4 * scale] : []);
        for (const [ink, thick] of [["rgba(0, 0, 0, .55)", 3.4], [colour, 1.8]]) { pen.strokeStyle = ink; pen.lineWidth = thick * scale; pen.stroke(drawn); }
      }
      cross(pen, matrix.transformPoint(new DOMPoint(...[0, 1, 2].filter(a => a !== axis).map(a => at[a] + 0.5))), [left, top, width, height], scale);
      pen.restore();
    }
  };

  const cross = (pen, { x, y }, [left, top, width, height], scale) => {
    const gap = 9 * scale;
    pen.setLineDash([]);
    pen.strokeStyle = "rgba(255, 255, 255, .6)";
    pen.lineWidth = scale;
    pen.beginPath();
    for (const [from, to] of [[left, x - Math.sign(width) * gap], [x + Math.sign(width) * gap, left + width]]) { pen.moveTo(from, y); pen.lineTo(to, y); }
    for (const [from, to] of [[top, y - gap], [y + gap, top + height]]) { pen.moveTo(x, from); pen.lineTo(x, to); }
    pen.stroke();
  };

  // Start -----------------------------------------------------------------------------------------------------------------------

  const begin = async () => {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser or its graphics driver offers no WebGL 2");
    if (!("DecompressionStream" in window)) throw new Error("this browser is too old to unpack the scans");
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack("viewer-niivue"));
    document.head.append(script);
    nv = root.niivue = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairWidth: 0, crosshairColor: [1, 1, 1, 0.6], fontColor: [0.75, 0.78, 0.82, 1], show3Dcrosshair: false,
      isRadiologicalConvention: true, multiplanarShowRender: 0, multiplanarPadPixels: 4, dragAndDropEnabled: false, logLevel: "error",
      isResizeCanvas: true, loadingText: "",
    });
    nv.addColormap("doubt", DOUBT);
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = () => { const drawn = draw(); if (here && nv.volumes.length) outline(); return drawn; };
    await nv.attachToCanvas(canvas);
    nv.onLocationChange = say;
    find("open").hidden = true;
    await pick();
    root.dataset.ready = "true";
  };

  const fail = error => {
    find("problem").textContent = `The viewer cannot be shown: ${error.message}. The still pictures on this page show the same cases.`;
    find("problem").hidden = false;
    find("frame").hidden = true;
  };

  const start = () => starting ??= begin().catch(fail);
  const whenReady = act => event => start().then(() => nv && act(event)).catch(fail);

  // Hands -----------------------------------------------------------------------------------------------------------------------

  const KEYS = {  // the crosshair's way for arrows to the right and up, and for page up, by layout
    axial: [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
    coronal: [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    sagittal: [[0, -1, 0], [0, 0, 1], [1, 0, 0]],
  };
  KEYS.all = KEYS.axial;

  const TURNS = { ArrowRight: [5, 0], ArrowLeft: [-5, 0], ArrowUp: [0, 5], ArrowDown: [0, -5] };

  const WAYS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 1], ArrowDown: [1, -1], PageUp: [2, 1], PageDown: [2, -1] };

  const SWITCHES = { r: "reference", p: "prediction", u: "uncertainty", o: "lines" };

  const zoom = factor => {
    const pan = nv.scene.pan2Dxyzmm, mm = nv.frac2mm(nv.scene.crosshairPos), before = pan[3], after = Math.min(Math.max(before * factor, 0.5), 16);
    nv.scene.pan2Dxyzmm = [0, 1, 2].map(i => pan[i] - (after - before) * mm[i]).concat(after);
    nv.drawScene();
  };

  const press = event => {
    const way = WAYS[event.key], turn = TURNS[event.key], key = event.key.toLowerCase();
    if (layout() === "render" && turn) nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + turn[0], nv.scene.renderElevation + turn[1]);
    else if (way && layout() !== "render") go(place().map((p, axis) => p + way[1] * KEYS[layout()][way[0]][axis]));
    else if (key === "+" || key === "=") zoom(1.25);
    else if (key === "-") zoom(0.8);
    else if (SWITCHES[key] && find(SWITCHES[key]) && !find(SWITCHES[key]).disabled) find(SWITCHES[key]).click();
    else return false;
    return true;
  };

  stage.addEventListener("keydown", event => {
    if (event.target !== canvas || event.ctrlKey || event.altKey || event.metaKey || !nv) return;
    event.stopPropagation();  // niivue has keys of its own
    if (press(event)) event.preventDefault();
  }, true);
  stage.addEventListener("keyup", event => event.target === canvas && event.stopPropagation(), true);
  const idle = event => document.activeElement !== canvas && (event.stopPropagation(), true);  // so that the page can be scrolled over it
  for (const kind of ["touchstart", "touchmove", "touchend"]) stage.addEventListener(kind, idle, { capture: true, passive: true });
  stage.addEventListener("wheel", event => {
    if (idle(event) !== false || !now?.flat) return;
    event.stopPropagation();
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8);
  }, { capture: true, passive: false });
  canvas.addEventListener("pointerdown", event => event.pointerType === "mouse" && canvas.focus({ preventScroll: true }));
  canvas.addEventListener("click", () => canvas.focus({ preventScroll: true }));
  find("open").addEventListener("click", start);
  find("case").addEventListener("change", whenReady(pick));
  find("channel").addEventListener("change", whenReady(show));
  for (const name of ["reference", "prediction", "uncertainty", "lines"]) find(name)?.addEventListener("change", whenReady(apply));
  for (const name of ["opacity", "window", "level"]) find(name).addEventListener("input", whenReady(apply));
  root.querySelectorAll('[name="viewer-layout"]').forEach(choice => choice.addEventListener("change", whenReady(arrange)));
  root.querySelectorAll("[data-viewer-jump]").forEach(button => button.addEventListener("click", whenReady(() => {
    if (layout() !== "all") root.querySelector(`[name="viewer-layout"][value="${button.dataset.viewerJump}"]`).checked = true;
    arrange();
    go(current().jumps[button.dataset.viewerJump]);
  })));
  find("reset").addEventListener("click", whenReady(() => { reset(); nv.scene.pan2Dxyzmm = [0, 0, 0, 1]; arrange(); go(current().start); }));
  root.addEventListener("focusin", start, { once: true });
  if ("IntersectionObserver" in window) new IntersectionObserver((seen, watcher) => {
    if (seen.some(entry => entry.isIntersecting)) { watcher.disconnect(); start(); }
  }, { rootMargin: "200px" }).observe(stage);
  if (find("scale-bar")) find("scale-bar").style.background = `linear-gradient(to right, ${DOUBT.I.map((at, i) => `rgb(${DOUBT.R[i]} ${DOUBT.G[i]} ${DOUBT.B[i]}) ${at / 2.55}%`)})`;
})();
