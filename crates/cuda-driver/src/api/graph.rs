//! Graphs.

use super::module::collect;
use super::{Handle, functions, handle, id, not_null, put, put_list, values};
use crate::front::Geometry;
use std::ffi::{c_uint, c_ulonglong, c_void};

/// `CUDA_KERNEL_NODE_PARAMS`, its first version.
#[repr(C)]
pub struct KernelNode {
    function: Handle,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

functions! {
    fn cuGraphCreate(graph: *mut Handle, flags: c_uint) => |gpu| {
        not_null(graph)?;
        put(graph, handle(gpu.graph_create(flags)?))
    };
    fn cuGraphDestroy(graph: Handle) => |gpu| gpu.graph_destroy(id(graph));
    fn cuGraphAddKernelNode(
        node: *mut Handle,
        graph: Handle,
        after: *const Handle,
        count: usize,
        launch: *const KernelNode,
    ) => |gpu| {
        not_null(node)?;
        not_null(launch)?;
        let KernelNode { function, grid, block, dynamic_shared, params, extra } = launch.read();
        let after: Vec<_> = values(after, count)?.iter().map(|&node| id(node)).collect();
        let layout = gpu.parameters(id(function))?;
        let params = collect(&layout, params, extra)?;
        let geometry = Geometry { grid, block, dynamic_shared };
        put(node, handle(gpu.graph_add_launch(id(graph), &after, id(function), geometry, params)?))
    };
    fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) => |gpu| {
        let list: Vec<_> = gpu.graph_nodes(id(graph))?.into_iter().map(handle).collect();
        put_list(nodes, count, &list)
    };
    fn cuGraphGetEdges(graph: Handle, from: *mut Handle, to: *mut Handle, count: *mut usize) => |gpu| {
        not_null(count)?;
        let (a, b): (Vec<_>, Vec<_>) = gpu.graph_edges(id(graph))?.into_iter().map(|(a, b)| (handle(a), handle(b))).unzip();
        let mut room = count.read();
        put_list(from, &mut room, &a)?;
        put_list(to, count, &b)
    };
    fn cuGraphNodeGetType(node: Handle, kind: *mut c_uint) => |gpu| put(kind, gpu.node_kind(id(node))?);
    fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, _flags: c_ulonglong) => |gpu| {
        not_null(executable)?;
        put(executable, handle(gpu.graph_instantiate(id(graph))?))
    };
    fn cuGraphUpload(executable: Handle, _stream: Handle) => |gpu| gpu.executable_known(id(executable));
    fn cuGraphLaunch(executable: Handle, stream: Handle) => |gpu| gpu.graph_launch(id(executable), id(stream));
    fn cuGraphExecDestroy(executable: Handle) => |gpu| gpu.executable_destroy(id(executable));
}
