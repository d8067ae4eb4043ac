// Lets a subgraph node show what the sampler inside it shows: how long it will take, and the video so far.
//
// The server sends text and video to the sampler and to the subgraph nodes around it (wan_s2v_model/comfy_bridge/display.py), but ComfyUI
// gives a subgraph node the widgets of its inputs and no others. Here they get a place: widgets of their own on the canvas, a line of text
// in Nodes 2.0 and in an App, which draw widgets of inputs only.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const SAMPLER = "WanS2VSampler";
const APP = '[data-testid="linear-center-panel"]';

const holdsSampler = (subgraph) =>
    subgraph.nodes.some((node) => node.type === SAMPLER || (node.subgraph && holdsSampler(node.subgraph)));

/** Widgets that are added to a subgraph node stay behind those of its inputs. */
function keepAddedWidgets(node) {
    const ofInputs = Object.getOwnPropertyDescriptor(node, "widgets")?.get;
    if (!ofInputs) return; // a front end in which they stay by themselves
    const added = [];
    Object.defineProperty(node, "widgets", {
        configurable: true,
        enumerable: true,
        set: () => {},
        get: () => {
            const widgets = [...ofInputs.call(node), ...added];
            widgets.push = (...items) => {
                added.push(...items);
                return Array.prototype.push.apply(widgets, items);
            };
            return widgets;
        },
    });
}

const line = document.createElement("div");
line.dataset.testid = "wan-s2v-progress";
line.style.cssText = "padding: 6px 12px; text-align: center; font-size: 12px; color: var(--p-text-muted-color, #aaa); pointer-events: none;";

function showLine({ detail: { nodeId, text } }) {
    const node = app.rootGraph?.getNodeById(nodeId);
    if (!node?.subgraph) return;
    line.textContent = text;
    const home = document.querySelector(APP) ?? document.querySelector(`[data-node-id="${nodeId}"]`);
    if (home && line.parentElement !== home) home.append(line);
}

/** In Nodes 2.0 a subgraph node shows what a node inside it has, once that says that it is a video and no picture. */
function setMedia(executionId, media) {
    let graph = app.rootGraph, node;
    for (const id of String(executionId).split(":")) {
        node = graph?.getNodeById(id);
        graph = node?.subgraph;
    }
    if (node?.type === SAMPLER) node.previewMediaType = media;
}

app.registerExtension({
    name: "WanS2V.Subgraphs",
    setup() {
        api.addEventListener("progress_text", showLine);
        api.addEventListener("execution_start", () => line.remove());
        api.addEventListener("executed", ({ detail }) => setMedia(detail.display_node, detail.output?.animated?.[0] ? "video" : "image"));
        api.addEventListener("b_preview_with_metadata", ({ detail }) => setMedia(detail.displayNodeId, "image"));
    },
    nodeCreated(node) {
        if (node.subgraph && holdsSampler(node.subgraph)) keepAddedWidgets(node);
    },
});
